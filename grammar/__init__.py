"""The grammar of the language (`rnn.lark`) and the LALR table built from it (`table.json`)."""
