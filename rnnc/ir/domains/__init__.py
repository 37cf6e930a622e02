"""What a value can be: one file per domain (see `rnnc.ir.evaluate`)."""
