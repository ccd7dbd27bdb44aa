"""Gradient flow through an RNN and an LSTM."""
