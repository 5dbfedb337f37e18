"""The parts of a Segmenter network: blocks, position embeddings, encoder and decoders; `segfast.model` joins them."""
