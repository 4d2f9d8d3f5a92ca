-- How many days pass between order and delivery: in half of the cases, in nine of ten, at the worst?
select
    o_orderpriority as priority,
    percentile_cont(0.5) within group (order by l_receiptdate - o_orderdate) as median_days,
    percentile_cont(0.9) within group (order by l_receiptdate - o_orderdate) as ninth_decile_days,
    max(l_receiptdate - o_orderdate) as worst_days
from lineitem
join orders on o_orderkey = l_orderkey
group by o_orderpriority
order by priority;
