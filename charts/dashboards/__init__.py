"""The chart's Grafana dashboards, written in Python: `make dashboards` puts them into the chart as JSON.

One file a dashboard (`convergence`, `rollouts`, `operations`); what they share lies in `expressions` (PromQL),
`panels` and `board` (Grafana). `known` is every series that may be named. `answers` asks a Prometheus what a panel
asks, and `picture` draws it.
"""
