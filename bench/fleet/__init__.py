"""A simulated fleet: agents that speak the real protocol over mTLS, without a kernel behind them."""
