// A greeter on @grpc/grpc-js, which knows nothing of a relay: `node server.js [PORT]`.
// Prints "listening on 127.0.0.1:PORT"; ends at SIGTERM.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '..', 'greeter', 'greeter.proto');
const { Greeter } = grpc.loadPackageDefinition(protoLoader.loadSync(PROTO)).samples.greeter.v1;

const greeter = {
  sayHello(call, answer) {
    if (!call.request.name) {
      answer({ code: grpc.status.INVALID_ARGUMENT, details: 'a name is missing' });
      return;
    }
    answer(null, { message: `Hello, ${call.request.name}` }, call.metadata);
  },

  listGreetings(call) {
    for (let number = 1; number <= call.request.count; number += 1) {
      call.write({ message: `Hello, ${call.request.name}`, number });
    }
    call.end();
  },

  collectNames(call, answer) {
    const names = [];
    call.on('data', (request) => names.push(request.name));
    call.on('end', () => answer(null, { message: `Hello, ${names.join(' and ')}` }));
  },

  chat(call) {
    call.on('data', (line) => call.write({ text: `you said: ${line.text}` }));
    call.on('end', () => call.end());
  },
};

const server = new grpc.Server();
server.addService(Greeter.service, greeter);
const where = `127.0.0.1:${process.argv[2] ?? 50051}`;
server.bindAsync(where, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on 127.0.0.1:${port}`);
});
process.on('SIGTERM', () => server.tryShutdown(() => process.exit(0)));
