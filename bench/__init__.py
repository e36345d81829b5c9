"""lstm_fused.LSTM against torch.nn.LSTM, side by side in one process: `python -m bench --help`."""
