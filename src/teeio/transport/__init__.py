"""Ways to a peer outside this process: the only place below the command line that touches sockets, threads and the clock."""
