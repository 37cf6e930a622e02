"""The intermediate representation: a frozen typed graph of one step, its op table, and readings of it."""
