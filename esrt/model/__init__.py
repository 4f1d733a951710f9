"""What the network is, in torch: encoder, adapter, projector, language model, and how they are stored."""
