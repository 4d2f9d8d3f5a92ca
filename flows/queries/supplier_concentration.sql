-- How many suppliers does it take to make up each tenth of the revenue?
with earned as (
    select l_suppkey, sum(l_extendedprice * (1 - l_discount)) as revenue
    from lineitem
    group by l_suppkey
), ranked as (
    select
        l_suppkey,
        revenue,
        sum(revenue) over (order by revenue desc, l_suppkey rows unbounded preceding) as so_far,
        sum(revenue) over () as total
    from earned
)
select
    least(10, 1 + floor(10 * (so_far - revenue) / total)::int) as tenth,
    count(*) as suppliers,
    sum(revenue) as revenue
from ranked
group by 1
order by tenth;
