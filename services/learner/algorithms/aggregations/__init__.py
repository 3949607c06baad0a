"""How much a response's tokens weigh in the loss; each file has `weights(lengths, totals)`.

`totals` are a factor common to all weights: a step whose totals are not known yet is weighed without them, and divided
once they are.
"""
