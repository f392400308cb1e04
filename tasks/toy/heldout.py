# SPDX-License-Identifier: Apache-2.0
"""What the toy suite holds out of training: fixed before the first training run, and used by
`toy_train`.

clusters   `entailment` (a claim follows from a passage or not) and `codes` (numbers for words by a
           dictionary
           in the prompt). Their neighbours leave with them: `fact_check` (which of two claims is
           right) and `symbols` (the number of one word); so do all variants, the inverted ones
           included.
tasks      one in each of four clusters that are trained.

Grades (tag `grade`): a new argument of a known operation (the third word, where first, second and
last are trained), a new composition of known operations (reverse what is left without the first
word), a new operation (swap two words). `rule_in_prompt` marks those that the prompt itself
explains.
"""

CLUSTERS = ("entailment", "codes")
TASKS = ("third_word", "reverse_rest", "label_last", "swap_two")
