-- How many orders of each priority are still open, and what are they worth?
select
    o_orderpriority as priority,
    count(*) as orders,
    count(*) filter (where o_orderstatus = 'O') as open,
    coalesce(sum(o_totalprice) filter (where o_orderstatus = 'O'), 0) as open_value
from orders
group by o_orderpriority
order by priority;
