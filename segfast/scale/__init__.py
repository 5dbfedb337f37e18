"""A run over more pictures than one sitting: what to segment, where its outputs lie, what is done. By Ray Data."""
