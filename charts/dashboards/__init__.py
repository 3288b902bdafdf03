"""The chart's Grafana dashboards, written in Python: `make dashboards` puts them into the chart as JSON.

One file a dashboard (`convergence` with `generator` and `reward_model`, `rollouts`, `operations`); what they share lies
in `expressions` (PromQL), `panels` and `board` (Grafana). `exported_series` is every series that may be named.
`grafana_emulation` asks a Prometheus what a panel asks, and `picture` draws it.
"""
