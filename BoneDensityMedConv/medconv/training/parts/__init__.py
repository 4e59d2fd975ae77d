"""What a training is made of: backbones, heads, losses, optimisers, sampling."""
