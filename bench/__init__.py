"""What an operation, a request and a million sessions cost. ``python -m bench`` runs all of it; see README.md."""
