"""The processes: sockets, threads and the command line. They carry out; they decide nothing."""
