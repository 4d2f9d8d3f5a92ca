-- How much revenue is given away as discount, by market segment and size of the discount?
select
    c_mktsegment as segment,
    l_discount as discount,
    count(*) as lines,
    sum(l_extendedprice * l_discount) as given_away
from lineitem
join orders on o_orderkey = l_orderkey
join customer on c_custkey = o_custkey
group by grouping sets ((c_mktsegment, l_discount), (c_mktsegment))
order by segment, discount;
