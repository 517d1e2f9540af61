"""An HTTP server for a trained model or an export. Needs the extra `serve`."""
