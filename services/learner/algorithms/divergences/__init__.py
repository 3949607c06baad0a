"""Estimators of the divergence from the reference policy; each file has `divergence(log_probs, reference)`."""
