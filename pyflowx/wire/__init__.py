"""Pure codecs: octets to FlowBatch and back."""
