"""The model that is trained: its forward, what of it is trained, and its optimizer."""
