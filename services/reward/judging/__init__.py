"""One sample judged: its verifier found, its truth checked, its reward composed."""
