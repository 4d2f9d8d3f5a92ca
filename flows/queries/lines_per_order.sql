-- How many lines does an order have, and what is an order of that size worth?
with baskets as (
    select l_orderkey, count(*) as lines, sum(l_extendedprice) as value
    from lineitem
    group by l_orderkey
)
select lines, count(*) as orders, round(avg(value), 2) as mean_value, max(value) as largest
from baskets
group by lines
order by lines;
