"""How long will the answer be? Estimators, the tokenizers they count with, and the budget they give."""
