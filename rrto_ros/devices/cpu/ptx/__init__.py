"""PTX text: types, syntax tree, lexer and parser."""
