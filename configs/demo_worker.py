"""
A small real worker: an HTTP server that answers who it is and which GPU it was given.

    curl http://127.0.0.1:8100/

Standard library only. Any path answers; `/crash` ends the process with status 1, to see it come back.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with the same facts."""

    def do_GET(self) -> None:
        """Say who answers."""
        facts = {
            "worker": os.environ.get("WORKER"),
            "pid": os.getpid(),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        body = (json.dumps(facts) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/crash":
            self.wfile.flush()
            os._exit(1)


def main() -> None:
    """Serve on PORT until a signal ends the process."""
    port = int(os.environ["PORT"])
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"serving http://127.0.0.1:{port}/")
        server.serve_forever()


if __name__ == "__main__":
    main()
