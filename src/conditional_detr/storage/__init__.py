"""Read and write files, download from the Hub, and protect the output streams."""
