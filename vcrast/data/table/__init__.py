"""Read tables of clips as people have them: text, rows, columns, times, labels, folds, paths."""
