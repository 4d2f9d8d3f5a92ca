-- Does the revenue grow, month by month and against the mean of the last three months?
with months as (
    select date_trunc('month', l_shipdate)::date as month, sum(l_extendedprice * (1 - l_discount)) as revenue
    from lineitem
    group by 1
)
select
    month,
    revenue,
    round(avg(revenue) over (order by month rows 2 preceding), 2) as mean_of_three,
    revenue - lag(revenue) over (order by month) as change
from months
order by month;
