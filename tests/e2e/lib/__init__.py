"""What the end-to-end tests and the demo share: servers, the shop, its clients and their ledger."""
