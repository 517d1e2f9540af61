"""Memory, threads, processes, interrupts."""
