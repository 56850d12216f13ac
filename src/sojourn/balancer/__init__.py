"""Configuration text for balancers, out of a description of nodes. Pure: nothing here starts or reaches anything."""
