"""Remembers findings between runs, and knows which of them still hold."""
