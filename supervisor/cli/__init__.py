"""The command line. Every command imports only what it uses: `status` must feel instant."""
