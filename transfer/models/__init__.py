"""Model families: plain torch modules, each a function of width and depth."""
