"""How much a response's tokens weigh in the loss; each file has `weights(lengths, totals)`."""
