"""The reward service over HTTP: its routes, their bodies and answers, V-Triune's and other trainers' protocols."""
