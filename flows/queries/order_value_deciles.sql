-- If all orders stand in line by value, what does each tenth of the line begin and end with?
with placed as (
    select o_totalprice, ntile(10) over (order by o_totalprice, o_orderkey) as decile
    from orders
)
select decile, count(*) as orders, min(o_totalprice) as lowest, max(o_totalprice) as highest, sum(o_totalprice) as value
from placed
group by decile
order by decile;
