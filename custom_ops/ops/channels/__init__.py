"""The parts of a batch norm that work channel by channel: statistics, normalisation, gradients."""
