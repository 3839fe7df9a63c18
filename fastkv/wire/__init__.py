"""What the bytes mean: client messages, peer messages. Thin, over the compiled codecs; docs/protocol.md is the spec."""
