"""Read tables of clips: text, rows, columns, times, labels, folds, paths."""
