-- Which hundred customers brought in the most, and what is each one's rank within its nation?
with bought as (
    select
        o_custkey,
        count(distinct o_orderkey) as orders,
        sum(l_extendedprice * (1 - l_discount)) as revenue
    from orders
    join lineitem on l_orderkey = o_orderkey
    group by o_custkey
)
select
    c_custkey as customer_id,
    c_name as customer,
    n_name as nation,
    orders,
    revenue,
    rank() over (partition by n_name order by revenue desc) as rank_in_nation
from bought
join customer on c_custkey = o_custkey
join nation on n_nationkey = c_nationkey
order by revenue desc, customer_id
limit 100;
