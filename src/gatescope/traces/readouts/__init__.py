"""How a model is asked and its answers are read, one class each; `readout=` takes their names.

generate      greedy generation, read by Algorithm 1 of the VLM paper
short         greedy generation that holds one of the accepted short answers
likert        greedy generation that is a number on the question's scale, scored by its distance (CULNIG, equation 11)
likert_label  the most probable number on the scale, scored the same way
label         the most probable label, such as A or B, as the next token; labels of several tokens as a whole
argmax        the most probable token of the whole vocabulary, and whether it is the right label's: CULNIG's published
              evaluation. A token that is no label is no answer, and not right
loglik        the option whose text has the highest log-likelihood
loglik_mean   the same, divided by its number of tokens
none          nothing is read: plain passages
"""
