"""The HTTP gateway: questions, answers, history, alerts and the dashboard (docs/gateway.md)."""
