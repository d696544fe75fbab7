"""Other people's masked autoregressive samplers beside ours, each in an environment of its own."""
