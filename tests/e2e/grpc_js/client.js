// A gRPC client that does what it is told: `node client.js TARGET OPTIONS PROTO...`, where OPTIONS are
// the channel's, as JSON. `-IFOLDER` among the protos is where imports are found.
//
// Commands come as JSON lines on standard input, events leave as JSON lines on standard output. Every
// line has the `call` it belongs to, a number of the commander's choice. Ends with its input.
//
//   {"call", "open": {"method": "pkg.Service/Method", "metadata": [[key, value]...],
//                     "deadline_ms", "options", "request"}}   `request` where the client sends one
//   message; `options`, over OPTIONS, are a channel's that calls with the same ones share
//   {"call", "write": request}   {"call", "half_close": true}   {"call", "cancel": true}
//
//   {"call", "metadata": [[key, value]...]}   {"call", "message": response}
//   {"call", "status": {"code", "details", "metadata", "rich"}}   always last; `rich` has [name, message]
//   of each of the details of a google.rpc.Status, where the protos have that
//
// Messages are objects with the fields' own names; bytes, and values of "-bin" keys, are base64.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const LOADING = { keepCase: true, longs: String, enums: String, bytes: String, defaults: true };

function methodsOf(protos, includeDirs) {
  const methods = new Map();
  for (const service of Object.values(protoLoader.loadSync(protos, { ...LOADING, includeDirs }))) {
    if (service.format !== undefined) continue; // It is a message or an enum.
    for (const method of Object.values(service)) methods.set(method.path.slice(1), method);
  }
  return methods;
}

// What no .proto has: the method of every service that holds a session.
function sessionMethod(name) {
  const bytes = (message) => message;
  return {
    path: `/${name}`, requestStream: true, responseStream: true,
    requestSerialize: bytes, responseDeserialize: bytes,
  };
}

function toMetadata(pairs) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of pairs) {
    metadata.add(key, key.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return metadata;
}

function toPairs(metadata) {
  return Object.keys(metadata.getMap()).flatMap((key) =>
    metadata.get(key).map((value) => [key, Buffer.isBuffer(value) ? value.toString('base64') : value]),
  );
}

function messagesOf(protos, includeDirs) {
  const root = new protobuf.Root();
  root.resolvePath = (_, target) =>
    includeDirs.map((folder) => path.join(folder, target)).find(fs.existsSync) ?? target;
  return root.loadSync(protos, LOADING);
}

// What came with an error beside its text, as any language reads it.
function richDetailsOf(messages, metadata) {
  const status = messages.lookup('google.rpc.Status');
  const [packed] = metadata.get('grpc-status-details-bin');
  if (status === null || packed === undefined) return [];
  return status.decode(packed).details.map(({ type_url, value }) => {
    const type = messages.lookupType(type_url.split('/').pop());
    return [type.fullName.slice(1), type.toObject(type.decode(value), LOADING)];
  });
}

function open(client, method, { metadata, deadline_ms, request }, messages, tell) {
  const options = deadline_ms === undefined ? {} : { deadline: Date.now() + deadline_ms };
  const last = [toMetadata(metadata), options];
  const kind = [method.path, method.requestSerialize, method.responseDeserialize];
  // The status says what went wrong.
  const answered = (error, response) => error ?? tell({ message: response });
  let call;
  if (method.requestStream && method.responseStream) {
    call = client.makeBidiStreamRequest(...kind, ...last);
  } else if (method.requestStream) {
    call = client.makeClientStreamRequest(...kind, ...last, answered);
  } else if (method.responseStream) {
    call = client.makeServerStreamRequest(...kind, request, ...last);
  } else {
    call = client.makeUnaryRequest(...kind, request, ...last, answered);
  }
  if (method.responseStream) {
    call.on('data', (response) => tell({ message: response }));
    call.on('error', () => {});
  }
  call.on('metadata', (received) => tell({ metadata: toPairs(received) }));
  call.on('status', ({ code, details, metadata: trailing }) =>
    // Behind messages that are told in this turn of the loop.
    setImmediate(() =>
      tell({
        status: { code, details, metadata: toPairs(trailing), rich: richDetailsOf(messages, trailing) },
      }),
    ),
  );
  return call;
}

// The package loses a cancellation that comes before the metadata are sent: the call ends here, and
// its stream stays open for good.
function cancelOnceBegun(client, call) {
  client.waitForReady(Infinity, () => setImmediate(() => call.cancel()));
}

function main([target, options, ...rest]) {
  const includeDirs = rest.filter((each) => each.startsWith('-I')).map((each) => each.slice(2));
  const protos = rest.filter((each) => !each.startsWith('-I'));
  const methods = methodsOf(protos, includeDirs);
  const messages = messagesOf(protos, includeDirs);
  const clients = new Map();
  const clientWith = (more) => {
    const key = JSON.stringify({ ...JSON.parse(options), ...more });
    if (!clients.has(key)) {
      clients.set(key, new grpc.Client(target, grpc.credentials.createInsecure(), JSON.parse(key)));
    }
    return clients.get(key);
  };
  const calls = new Map();
  const input = readline.createInterface({ input: process.stdin });
  input.on('line', (line) => {
    const command = JSON.parse(line);
    const tell = (event) => process.stdout.write(`${JSON.stringify({ call: command.call, ...event })}\n`);
    if (command.open) {
      const client = clientWith(command.open.options);
      const name = command.open.method;
      const method = name.endsWith('/$session') ? sessionMethod(name) : methods.get(name);
      calls.set(command.call, [client, open(client, method, command.open, messages, tell)]);
    } else if (command.write) {
      calls.get(command.call)[1].write(command.write);
    } else if (command.half_close) {
      calls.get(command.call)[1].end();
    } else if (command.cancel) {
      cancelOnceBegun(...calls.get(command.call));
    }
  });
  input.on('close', () => clients.forEach((client) => client.close()));
}

main(process.argv.slice(2));
