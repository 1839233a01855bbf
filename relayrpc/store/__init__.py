"""What outlives a process: keys with revisions, watches and leases, and logs to append to."""
