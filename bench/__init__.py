"""lstm_fused.LSTM, its peers and the machine's floor, side by side in one process: `python -m bench --help`."""
