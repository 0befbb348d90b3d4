"""How fast `salun` is: measured beside the way the field does it, in one run on the machine at hand."""
