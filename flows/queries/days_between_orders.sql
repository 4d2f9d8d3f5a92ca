-- How long do the customers of each market segment wait before they order again?
with gaps as (
    select
        o_custkey,
        o_orderdate - lag(o_orderdate) over (partition by o_custkey order by o_orderdate, o_orderkey) as days
    from orders
)
select
    c_mktsegment as segment,
    count(*) as repeat_orders,
    round(avg(days), 2) as mean_days,
    max(days) as longest
from gaps
join customer on c_custkey = o_custkey
where days is not null
group by c_mktsegment
order by segment;
