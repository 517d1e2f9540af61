"""How training is executed: memory, threads, processes and interrupts."""
