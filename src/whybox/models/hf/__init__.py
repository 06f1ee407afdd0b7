"""Hugging Face's models."""
